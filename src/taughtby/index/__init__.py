"""The index of feature vectors on disk: build, append, verify and copy it, on one machine or with Ray."""
