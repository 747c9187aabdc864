# frozen_string_literal: true

Puppet::Type.newtype(:dpt_odd) do
  @doc = 'What goes wrong, in every way.'

  newparam(:name, namevar: true)

  # Nobody says where its parent is: Puppet has loaded it for its own types.
  newparam(:strict, boolean: true, parent: Puppet::Parameter::Boolean)

  newproperty(:state) do
    defaultto 'odd'
  end

  newproperty(:password)
end
