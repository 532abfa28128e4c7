"""What became of the files of one day: figures, a picture, and the copies kept in the store.

pandas and matplotlib take a second and 100 MiB, so this is imported by those who make or show a
report when they do.
"""
