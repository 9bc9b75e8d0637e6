"""What installs, starts and stops the suite on one machine; no part of the product."""
