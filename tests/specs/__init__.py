"""What is specified and drawn, against itself and against the suite."""
