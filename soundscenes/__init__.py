"""SoundScenes: a data set of short synthetic audio scenes, generated rather than downloaded."""
