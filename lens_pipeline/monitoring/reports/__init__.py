"""What became of the files of one day: figures, a picture, and copies kept in the store."""
