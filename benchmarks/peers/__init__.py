"""The same work on other job systems and here, in one run: how fast, and what is lost or done twice after kill -9."""
