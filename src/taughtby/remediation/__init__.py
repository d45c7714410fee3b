"""From a trace to cleaned data, retraining and the report of both."""
