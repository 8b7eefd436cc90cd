"""`sgrt batch`: a file of requests to a file of answers, of which none is lost or given twice."""
