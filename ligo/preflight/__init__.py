"""What a run will need, looked at before it begins: this machine, the other ranks, and how to tell others about both."""
