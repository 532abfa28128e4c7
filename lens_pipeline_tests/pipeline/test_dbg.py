import cProfile, pstats, time
def test_dbg(site, photo):
    for i in range(3): site.add(f"p{i}", photo(f"p{i}"))
    site.once()
    t=time.perf_counter(); site.once(); print("second once", time.perf_counter()-t)
    for i in range(3): site.add(f"q{i}", photo(f"q{i}"))
    pr=cProfile.Profile(); pr.enable(); site.once(); pr.disable()
    pstats.Stats(pr).sort_stats("cumtime").print_stats(45)
    assert 0
