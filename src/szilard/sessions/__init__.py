"""Sessions: what is open on a stock model while it runs. The waist of attention methods; some only measure."""
