"""The solutions of the lessons, one file each: look at them when you have tried."""
