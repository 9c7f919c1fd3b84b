"""Who may listen: the doors. Each one decodes, asks the runner, and forwards an event log."""
