"""One file per format on disk; each returns the videos that ``video_record.py`` describes."""
