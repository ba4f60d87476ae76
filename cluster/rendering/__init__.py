"""Files that start a cluster or a schedule, written from the settings of a cluster."""
