"""What the package costs, measured beside the storage that it works on (``make bench``). No part of what is shipped."""
