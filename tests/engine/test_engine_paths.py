"""What zc.async's users import is found under the same path, with only the package's prefix changed."""

import importlib
import pytest

#: Module: what documents and users of zc.async import from it.
PATHS = {
    "": "local",
    "adapters": "defaultQueueAdapter",
    "agent": "Agent addMainAgentActivationHandler chooseFirst",
    "configure": "minimal base start",
    "dispatcher": "AgentThreadPool clear Dispatcher get getId PollInfo pop",
    "i18n": "_",
    "instanceuuid": "getUUID",
    "interfaces": """
        ACTIVE ASSIGNED CALLBACKS COMPLETED KEY NEW PENDING
        AbortedError BadStatusError FullError ReassignedError TimeoutError
        DatabaseOpened DispatcherActivated DispatcherDeactivated DispatcherReactivated DispatcherRegistered
        DispatcherUnregistered ObjectAdded
        IDatabaseOpenedEvent IDispatcherActivated IDispatcherDeactivated IDispatcherReactivated IDispatcherRegistered
        IDispatcherUnregistered IObjectAdded
        IAbstractJob IAgent ICallbackProxy ICompletedCollection IDispatcherAgents IDispatchers IFilterAgent IJob IQueue
        IQuota IReactor IRetryPolicy IUUID
    """,
    "job": """
        callback_retry_policy_factory ConditionalCallbackProxy isFailure Job NeverRetry parallel RetryCommonForever
        RetryCommonFourTimes serial SuccessFailureCallbackProxy
    """,
    "monitor": "help job jobs jobstats poll polls status utcnow UUID",
    "monitordb": "count help job jobs jobstats lastcompleted nextpending status traceback UUIDs",
    "queue": "DispatcherAgents Dispatchers getDefaultQueue Queue Queues Quota",
    "subscribers": """
        agent_installer AgentInstaller multidb_queue_installer queue_installer QueueInstaller restore_signal_handlers
        signal_handlers threaded_dispatcher_installer ThreadedDispatcherInstaller twisted_dispatcher_installer
        TwistedDispatcherInstaller
    """,
    "testing": """
        get_poll print_logs Reactor set_now setUpDatetime tear_down_dispatcher tearDownDatetime TearDownDispatcherError
        wait_for_annotation wait_for_deactivation wait_for_death wait_for_result wait_for_start
    """,
    "threadlocal": "local",
    "utils": "custom_repr dt_to_long log long_to_dt never_fail sortedmerge takecount tracelog try_five_times",
    "z3": "Job Participation",
}


@pytest.mark.parametrize("module", PATHS)
def test_what_was_imported_from_zc_async_is_there_under_the_new_prefix(module: str) -> None:
    found = importlib.import_module(f"collective.zcasync.{module}".rstrip("."))
    assert [name for name in PATHS[module].split() if not hasattr(found, name)] == []
