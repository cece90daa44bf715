"""``make chaos``: processes and servers are killed at random under a load of jobs, and then every effect is counted."""
