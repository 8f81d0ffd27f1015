"""The data type every other room speaks, the clip store on disk, and the training windows cut from it."""
