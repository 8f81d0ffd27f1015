"""The released TraceExtract episode folder, read and written (every file, key and dtype of it).

An episode is a folder with a picture and a depth map per frame, cameras, and for every frame a row per moving point: its
future and its past as that frame's camera sees them, frame by frame (`raw_traj`) and by path length (`traj`), in float16.
Rows have no track id; `identity.py` finds which rows are one point.
"""
