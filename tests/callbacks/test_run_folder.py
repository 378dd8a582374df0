from lightning.pytorch.loggers import CSVLogger

from lit_vlm.callbacks.run_folder import is_trial_run, run_folder


def test_without_a_logger_the_default_folder_is_the_runs_folder(make_trainer, tmp_path):
    assert run_folder(make_trainer()) == tmp_path


def test_with_a_logger_its_version_is_the_runs_folder(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path, name="quickstart", version=3)
    assert run_folder(make_trainer(logger=logger)) == tmp_path / "quickstart" / "version_3"


def test_only_fast_dev_run_is_a_trial(make_trainer):
    assert not is_trial_run(make_trainer())
    assert is_trial_run(make_trainer(fast_dev_run=True))
