"""The three C++ libraries under AddressSanitizer and UBSan, called with drawn arguments."""
