"""A model running on this machine: loader, scheduler, worker processes and their sandbox."""
