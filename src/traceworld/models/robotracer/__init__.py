"""RoboTracer: a vision-language model with a spatial encoder and a scale decoder, whose words are metric traces."""
