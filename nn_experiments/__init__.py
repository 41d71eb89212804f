"""The same measurements on neural networks (needs the extra `nn`: torch, torchvision, scikit-learn, safetensors)."""
