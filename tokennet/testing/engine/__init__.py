"""Running a model on an input and on a changed one."""
