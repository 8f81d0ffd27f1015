"""The TraceForge episode layout, read and written: a sample per query frame, pictures and depth of these frames, the video's cameras."""
