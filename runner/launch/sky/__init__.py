"""SkyPilot as a provider of machines: one managed job for one run, by the program `sky`."""
