"""bai-emit: publish metrics from the command line and from stdin."""
