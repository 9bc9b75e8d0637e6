"""The promises of the suite under real faults, in the small size; `make chaos` plays the large one."""
