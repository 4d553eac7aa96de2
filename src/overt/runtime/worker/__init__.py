"""The worker process: how it is started, spoken to and supervised."""
