"""ffmpeg and ffprobe: finding and running them, and what their callers share."""
