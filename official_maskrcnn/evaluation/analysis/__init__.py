"""What stands behind an AP: errors, confusions, calibration, and which images are the worst."""
