"""The `aquila` command. Commands import what they need when they run, so that `aquila --help` stays instant."""
