"""What a method is worth on a model: tasks, a resumable runner, a results store, and their report."""
