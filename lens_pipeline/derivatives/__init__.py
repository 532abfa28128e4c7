"""What is made from which row, where it goes, where it stands, what needs doing."""
