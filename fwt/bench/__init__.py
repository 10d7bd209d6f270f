"""The benchmark behind `fwt bench`: subjects, the check that they are equal, times, floors."""
