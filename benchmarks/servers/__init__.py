"""The servers under test. Each is a process that prints one JSON line `{"port": …}` when ready."""
