"""What happens: lifecycle (pure), event log, runner, history."""
