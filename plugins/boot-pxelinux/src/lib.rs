//! Network boot by pxelinux.
