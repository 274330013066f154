"""Infilling from radar: covariates, robust regression, smoothing in time, calibration."""
