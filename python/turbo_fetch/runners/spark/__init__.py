"""Workers as Spark tasks."""
