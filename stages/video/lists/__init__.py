"""Lists of videos: people's own and the published ones, read line by line, and the suffixes of videos and of lists."""
