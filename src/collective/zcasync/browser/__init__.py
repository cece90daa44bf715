"""Pages of Site Setup: background jobs that people can see and steer."""
