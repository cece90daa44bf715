"""The texts of the engine that are translated: their domain."""

from zope.i18nmessageid import MessageFactory

_ = MessageFactory("collective.zcasync")
