"""What models are worth: perplexity, tasks, answers judged in pairs; one file each, found by themselves."""
