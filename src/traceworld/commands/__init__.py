"""The commands of `traceworld`, by subject; `cli` puts them together."""
