"""What runs mailspan elsewhere; not a part of the program."""
