export SITE=direct-puppet
