"""What every room needs and what knows nothing about models: errors, units, runs, ranks, logs."""
