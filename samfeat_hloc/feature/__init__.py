"""The local feature: network, extraction, matching, and RootSIFT to compare with."""
