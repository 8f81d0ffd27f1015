"""Pictures, the self-contained report, and the live browser viewer."""
