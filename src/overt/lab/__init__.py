"""Making models out of models: each file that is named after an architecture knows that one."""
