"""How the nano SDXL base is made: pictures, autoencoder, UNet with its text encoders, judge, and the files."""
