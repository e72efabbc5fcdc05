"""Workers as Ray actors, and jobs on a Ray cluster."""
